"""Fills the slots of a committed template. The syntax, inside braces:

  {city}        one value of the group's slot or a field of its piece; the same value wherever it stands in one prompt
  {3..40}       a whole number between the two, {0.5..9.5} one with a decimal; a new one each time
  {line*6}      six lines, each a fresh expansion of the slot
  {kind|person} one of the slots

Values may hold slots themselves. Anything else in braces stays as it is: code samples have braces too.
"""

import re

_NAME = r"[a-z][a-z_0-9]*"
_SLOT = re.compile(rf"\{{({_NAME}(?:\|{_NAME})*)(?:\*(\d+))?\}}|\{{(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)\}}")
_DEPTH = 6


def names(template):
    """The slots and fields a template asks for."""
    turns = [template] if isinstance(template, str) else template
    return {name for turn in turns for match in _SLOT.finditer(turn) if match[1] for name in match[1].split("|")}


def _number(low, high, random):
    if "." in low or "." in high:
        return f"{random.uniform(float(low), float(high)):.1f}"
    return str(random.randint(int(low), int(high)))


def expand(template, slots, fields, random, chosen=None, depth=0):
    """The text of one turn. `fields` are taken as they are, braces and all; slots are expanded again."""
    chosen = {} if chosen is None else chosen

    def fill(match):
        if match[1] is None:
            return _number(match[3], match[4], random)
        name = random.choice(match[1].split("|"))
        if name in fields:
            return fields[name]
        if name not in slots:
            return match[0]
        if match[2]:
            return "\n".join(
                expand(random.choice(slots[name]), slots, fields, random, {}, depth + 1) for _ in range(int(match[2]))
            )
        if name not in chosen:
            value = random.choice(slots[name])
            chosen[name] = expand(value, slots, fields, random, chosen, depth + 1) if depth < _DEPTH else value
        return chosen[name]

    return _SLOT.sub(fill, template)
