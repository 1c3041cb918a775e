"""Chat templates rendered by transformers' own Jinja environment (see make_tokenizer_goldens.py)."""
import datetime
import json
import os

UNIX_TIME = 1721952000  # 26 Jul 2024, UTC

CONVERSATIONS = {
    "user": [("user", "Hello, who are you?")],
    "turns": [("user", " Hi \n"), ("assistant", "Hello!"), ("user", "How's 2+2?\n\nThanks ")],
    "system": [("system", "  Be terse.\n"), ("user", "Why?")],
    "long": [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    "thinking": [("user", "q"), ("assistant", "<think>\nhm\n</think>\n\nanswer"), ("user", "<tool>x</tool>"), ("assistant", "<think>more</think>done")],
    "unicode": [("user", "\u3000 日本語 \"quoted\" <|im_end|> {{ x }} \u00a0"), ("assistant", "❤️ émoji \\n")],
    "assistant_first": [("assistant", "x"), ("user", "y")],
    "odd_role": [("tool", "result"), ("user", "")],
    "empty": [],
}

# One construct or quirk each.
SNIPPETS = [
    "{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 - 5 }} {{ -(3) }}",
    "{{ 'a' ~ 1 ~ none ~ true }} {{ 'a' + 'b' * 3 }}", "{{ 'x' 'y' \"z\" }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 1 == 1 and 2 != 3 }}",
    "{{ not true }} {{ not false and true }} {{ true or undefined_thing.x }}", "{{ 'b' in 'abc' }} {{ 'b' not in ['a', 'b'] }} {{ 'k' in {'k': 1} }}",
    "{{ x }}|{{ x is defined }}|{{ x is undefined }}|{{ x is none }}|{{ x | default('d') }}|{{ '' | default('d', true) }}",
    "{{ x.y }}", "{{ x + 'a' }}", "{{ x ~ 'a' }}", "{{ none.y is defined }}", "{{ messages[0].nothing is defined }} {{ messages[0].nothing }}",
    "{{ x == y }} {{ x == '' }} {{ x is none }} {{ x | length }} {{ x | list }}", "{% for i in x %}{{ i }}{% else %}none{% endfor %}",
    "{{ [1, 'a', none, true, [2], {'k': 'v'}] }}", "{{ {'a': 1, 'b': [1, 2]} | tojson }}", "{{ {'a': {'b': []}, 'c': {}, 'd': [1]} | tojson(indent=2) }}",
    "{{ 'q\"\\\\ \\n \\t é \\u00e9 \\x41 \\x01' | tojson }}", "{{ \"it's\" }} {{ [\"it's\", 'say \"x\"', 'a\\nb'] }}",
    "{{ 'abcdef'[1:3] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[::2] }} {{ 'abc'[5:] }} {{ 'abc'[:-9] }} {{ 'é日x'[1] }} {{ 'é日x'[-1] }}",
    "{{ [1,2,3][-1] }} {{ [1,2,3][1:] }} {{ [1,2,3][7] is defined }} {{ [1,2,3][::-2] }} {{ [1,2,3,4][3:0:-1] }}",
    "{{ '  a b  ' | trim }}|{{ '  a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abc'.lstrip('ab') }}|{{ 'abc'.rstrip('c') }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.split(none, 1) }} {{ 'a\\nb\\r\\nc'.splitlines() }}",
    "{{ 'hello world'.title() }} {{ 'hello WORLD'.capitalize() }} {{ \"they're\".title() }} {{ 'aß'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'hi' | capitalize }}",
    "{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '-', 1) }} {{ 'abc' | replace('b', '') }} {{ 'ab'.replace('', '.') }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'bc')) }} {{ 'abcb'.find('b') }} {{ 'abcb'.rfind('b') }} {{ 'abcb'.count('b') }} {{ 'x'.find('y') }}",
    "{{ ['a', 'b'] | join(', ') }} {{ [1, 2] | join }} {{ messages | join('|', attribute='role') }} {{ '-'.join(['x', 'y']) }}",
    "{{ [3, 1] | first }} {{ [3, 1] | last }} {{ [] | first }} {{ 'abc' | first }} {{ 'é' | length }} {{ {'a': 1} | count }}",
    "{{ messages | map(attribute='role') | list }} {{ ['a', 'b'] | map('upper') | join }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | rejectattr('role', 'eq', 'user') | list | length }} {{ [0, 1, 2] | select('odd') | list }} {{ [0, 1, ''] | reject | list }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %} {% for k in {'a': 1} %}{{ k }}{% endfor %} {{ {'b': 1, 'A': 2} | dictsort | map('first') | list }} {{ {'a': 1} | items | map('last') | list }}",
    "{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 'z') }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }}",
    "{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for i in range(5) if i is odd %}{{ loop.index }}:{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "{{ range(3) | list }} {{ range(5, 0, -2) | list }}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=1) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns.y is defined }}",
    "{% if false %}{% set q = 1 %}{% endif %}{{ q is defined }}", "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]", "{% for i in [1,2] %}{{ y is defined }}{% set y = i %}{% endfor %}",
    "{% macro m(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ m('x') }}{{ m('x', 'y') }}{{ m(b=1, a=2) }}", "{% macro m() %}{{ g }}{% endmacro %}{% set g = 'G' %}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{{ 'a' if true else 'b' }}{{ 'a' if false }}{{ 'a' if 0 else 'b' if 1 else 'c' }}",
    "{{ 1 is odd }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is iterable }} {{ 1 is number }} {{ true is boolean }} {{ 5 is divisibleby 5 }} {{ 1 is integer }} {{ 'a' is in ['a'] }} {{ none is none }} {{ 1 is not none }}",
    "{{ true is true }} {{ 1 is true }} {{ false is false }} {{ 2 is gt 1 }} {{ 2 is eq 2 }} {{ 'A' is upper }} {{ raise_exception is defined }} {{ 'x' is sequence }}",
    "  {% if true %}\n  a\n  {% endif %}\n  b\n", "a\n\n  {%- if true -%}  \n x \n {%- endif %}\n\nb", "a {{- ' b ' -}} c\n", "  {%+ if true %}x{% endif %}\n y", "{% if true +%}\nx{% endif %}",
    "a {# c #} b\n{# d #}\ne\n   {#- f -#}   g", "x\r\ny\rz\n", "x\n\n", "\n{% if 1 %}\n\n{% endif %}\n{{ 'a' }}\n\n", "{{ '{{' }} {{ '%}' }} { } {a} %} }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': {}}}}}",
    "{% for m in messages %}\n  {% if m.role == 'user' %}\n U {{ m.content }}\n  {% else %}\n A\n  {% endif %}\n{% endfor %}",
    "{{ 'a\\\nb' }} {{ '\\101' }} {{ '\\q' }} {{ 'tab\\there' }}", "{{ messages | length }} {{ messages[0] == messages[0] }} {{ (1, 2) | length }} {{ [] == [] }} {{ {'a': 1} == {'a': 1} }} {{ true == 1 }}",
    "{{ 'line1\\nline2\\n\\nline3' | indent }}|{{ 'a\\nb' | indent(2, true) }}", "{{ '12' | int + 1 }} {{ 'x' | int }} {{ 3 | string + '!' }}", "{{ [1,2,3] | reverse | list }} {{ 'abc' | reverse }}",
    "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 'a' + 1 }}", "{{ raise_exception('no') }}", "{{ [1] < [2] and 1 < 'a' }}", "{% generation %}x{% endgeneration %}", "{{ dict(a=1, b='x') }}", "{{ none | length }}", "{{ strftime_now('%d %B %Y %H:%M %%') }}",
    "{{ messages[0]['role'].upper()[:2] ~ '-' ~ (messages | length) }}", "{{ 'a' is defined and 'b' or 'c' }}", "{{ -1 | string }} {{ not 1 is odd }}", "{{ bos_token ~ eos_token }}{{ tools is none }}{{ documents is defined }}", "{{ [1, 2] + [3] }}", "{{ 'x' * 0 }}|",
]


def write_chat_goldens(here):
    from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template
    now = datetime.datetime.fromtimestamp(UNIX_TIME, datetime.timezone.utc)
    folder = os.path.join(here, "templates")
    sources = {"templates/" + f: open(os.path.join(folder, f), encoding="utf-8").read() for f in sorted(os.listdir(folder))}
    rows = []

    def render(row, source, name, prompt):
        messages = [{"role": r, "content": c} for r, c in CONVERSATIONS[name]]
        row.update({"messages": messages, "add_generation_prompt": prompt})
        try:
            row["output"] = compile_template(source).render(
                messages=messages, tools=None, documents=None, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>",
                strftime_now=lambda f: now.strftime(f))
        except Exception as e:  # what the template or Jinja raises: ours must fail, too
            row["error"] = str(e)
        rows.append(row)

    for file, source in sources.items():
        for name in CONVERSATIONS:
            for prompt in (True, False):
                render({"file": file}, source, name, prompt)
    for source in SNIPPETS:
        render({"template": source}, source, "turns", True)
    with open(os.path.join(here, "chat.jsonl"), "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, separators=(",", ":")) + "\n")
