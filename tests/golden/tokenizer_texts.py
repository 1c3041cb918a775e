"""The awkward strings of the tokenizer goldens, and the text the small vocabularies are trained on. Seeded; no dependencies."""
import random

WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one
you were all her she there would their we him been has when who will no more if out so up said what its about than into them can
only other time new some could these two may first then do any like my now over such our man me even most made after also did
many off before must well back through years where much your way down should because long each just state people those too mr how
little good world make very year still see own work men day get here old life both between being under three never know same last
another while us might great go come since against right came take used himself few house use place during high without again
home around small however found part school once general upon every don't I'm we'll they've he'd can't won't it's""".split()

SCRIPTS = {
    "arabic": "السلام عليكم ورحمة الله وبركاته، كيف حالك اليوم؟ ١٢٣٤٥ مرحبا بالعالم",
    "hebrew": "שלום עולם, מה שלומך היום? בְּרֵאשִׁית בָּרָא אֱלֹהִים",
    "hindi": "नमस्ते दुनिया, आप कैसे हैं? १२३ क्षत्रिय ज्ञान श्री",
    "bengali": "হ্যালো বিশ্ব, কেমন আছো? ৪৫৬",
    "tamil": "வணக்கம் உலகம், எப்படி இருக்கிறீர்கள்?",
    "thai": "สวัสดีชาวโลก วันนี้เป็นอย่างไรบ้าง ๑๒๓ น้ำ ก็",
    "chinese": "你好，世界！今天天气怎么样？中华人民共和国 一二三 ３４５ 龘",
    "japanese": "こんにちは世界。今日はいい天気ですね！カタカナ ﾊﾝｶｸ ｶﾞ 々〆",
    "korean": "안녕하세요 세계! 오늘 날씨가 어때요? ㄱㄴㄷ 한글",
    "russian": "Привет, мир! Как дела сегодня? Ёлка й",
    "greek": "Γειά σου Κόσμε! Τι κάνεις σήμερα; ΑΣΣΑΣ ς ά",
    "georgian": "გამარჯობა მსოფლიო, როგორ ხარ?",
    "armenian": "Բարեւ աշխարհ, ինչպե՞ս ես և",
    "amharic": "ሰላም ዓለም፣ እንዴት ነህ? ፩፪፫",
    "khmer": "សួស្តីពិភពលោក ១២៣",
    "tibetan": "བཀྲ་ཤིས་བདེ་ལེགས། ༡༢༣",
    "burmese": "မင်္ဂလာပါ ကမ္ဘာလောက ၁၂၃",
    "vietnamese": "Xin chào thế giới! Hôm nay bạn thế nào? ường ẵ",
    "turkish": "İstanbul'da ılık bir gün; ığdır İĞÜŞÖÇ",
    "german": "Größe, Straße, Übermut ẞ; naïve café",
    "polish": "Zażółć gęślą jaźń ŁÓDŹ",
    "cherokee": "ᎣᏏᏲ ᎡᎶᎯ Ꭰ ꭰ",
    "deseret": "𐐀𐐨 𝒜𝓫𝔠 𝟘𝟙𝟚 𝕏",
    "math": "∀x∈ℝ: ∑ᵢ₌₁ⁿ xᵢ² ≥ 0 ⇒ √2 ≈ 1.414 ½ ⅓ ² ³ Ⅳ ⅻ ①②",
}

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "🇺🇸", "❤️", "❤", "☺️", "🧑🏿‍🚀", "👩‍❤️‍💋‍👨", "1️⃣", "#️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🤷‍♀️", "🐈‍⬛", "🫠", "©️", "™", "👋🏻👋🏿"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", "\n \n", " \n", "\u00a0", "\u3000", "\u0085", "\u2003", "\u2009", "\u200a", "\u202f",
          "\u205f", "\u1680", "\u2028", "\u2029", "\u180e", "\u200b", "\ufeff", "\v", "\f", "\u2060", "\x1c", "\x1f", "    ", "        "]
CONTROLS = [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9f", "\u00ad", "\u061c", "\u200c", "\u200d", "\u200e", "\u202e", "\u2066", "\ufffd",
                                          "\ufffe", "\uffff", "\ue000", "\U0010ffff", "\U000e0001"]
COMBINING = ["e\u0301", "a\u0308\u0304", "Z\u0351\u036b\u0343\u036a\u0302", "\u0301", " \u0301", "n\u0303o", "o\u0302\u0323", "o\u0323\u0302",
             "\u1112\u1161\u11ab", "\u0cb0\u0ccd\u200d\u0c95", "\u0915\u093c", "\u0958", "\u212b", "\u2126", "\ufb01", "\ufb03", "\u00e9", "q\u0307\u0323", "\u0344", "\uac00\u11a8",
             "\u0f71\u0f72", "\u1e9b\u0323", "\u2460", "\u3392", "\uff21", "\u0132", "A\u030a", "\u00c5", "\u1fbe", "\u037e"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'LL", "'D", "'lL", "\u2019s", "'\u017f", "'\u212a", "''s", "'sx", "'x", "' s"]
CODE = [
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\n", "SELECT * FROM t WHERE id = 42 AND name LIKE '%x%';",
    "<div class=\"a b\">\n\t<p>Hello &amp; bye</p>\n</div>", "fn main() -> Result<(), Box<dyn Error>> {\n    println!(\"{:?}\", v);\n    Ok(())\n}",
    "const f = async (a, b) => `${a}\\n${b ?? null}`;", "#include <vector>\n#define X(a) ((a) << 1)\n", "if [ \"$1\" = \"-h\" ]; then echo 'usage'; fi\n",
    "package main\n\nimport (\n\t\"fmt\"\n)\n", "{\"key\": [1, 2.5e-10, null, true], \"\\u00e9\": \"\\\"\"}", "\\frac{\\partial f}{\\partial x} = \\sum_{i=0}^{n} x_i",
    "https://example.com/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "/usr/local/lib/python3.11/site-packages", "C:\\Users\\me\\file.txt", "0xDEADBEEF 0b1010 1_000_000 3.14159 -1e9 12345678901234567890",
    "2024-02-29T23:59:59.999Z", "192.168.0.1:8080", "a.b.c.d()->e::f[g]<h>{i}", "!!!???...---___===+++***///|||&&&^^^%%%$$$###@@@~~~```", "\"\"\"doc\"\"\"", "// TODO(me): fix\r\n\r\n\treturn;",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|x|>", "<|xy|>", "<l>", "<r>", "<lr>", "word", "ﬁx", "fix", "Å", "A\u030a", "two words", "日本", "<s>", "</s>", "<|im_", "|>", "<", "<unk>",
            "<repo_name>", "<|IM_START|>"]
EDGES = ["", " ", "  ", "a", "\0", "a\0b", "\0\0\0", "'", "\"", " a", "a ", "\n", "qqqq", " qqqq", " qqqq qqqq", "words", "word", "sword word.", "a word-word", "word_word", "Hello world", "HELLO WORLD'S",
         "\ufeffBOM", "Straße", "ǅ ǈ ʰ ª º", "a\u0301\u0301\u0301", "١٢٣ १२३ ๑๒๓ 123 １２３", "٠.٥٪", "1234567890", "a1b2c3", "½¾", "x²", "٣word", "日本語日本", "<s>hi</s> there", " </s> x", "\ud7ff\ue000", "a,b,,c", "#a##b#", "ABC def GHI,", ",,", "#"]


def training_texts():
    rng = random.Random(1)
    out = [" ".join(rng.choice(WORDS) for _ in range(40)) + "." for _ in range(80)]
    out += [t for t in SCRIPTS.values() for _ in range(4)]
    out += CODE * 3 + EMOJI * 2 + [" ".join(WORDS).title()]
    return out


def _mixed(rng):
    pools = [WORDS, EMOJI, SPACES, COMBINING, CONTRACTIONS, [c for s in SCRIPTS.values() for c in s.split()], CONTROLS, SPECIALS,
             list("0123456789.,;:!?()[]{}<>'\"-_/\\@#$%^&*+=~`|"), CODE]
    weights = [5, 2, 5, 2, 2, 4, 1, 2, 4, 0.3]
    return "".join(rng.choice(rng.choices(pools, weights)[0]) for _ in range(rng.randrange(2, 7)))


def _random_code_points(rng):
    def one():
        while True:
            c = rng.choice([rng.randrange(0x20, 0x250), rng.randrange(0x250, 0x3000), rng.randrange(0x3000, 0xFFFF), rng.randrange(0x10000, 0x20000)])
            # Assigned before Unicode 12, so that every library's tables agree on it.
            if not 0xD800 <= c < 0xE000 and _old(c):
                return chr(c)
    return "".join(one() for _ in range(rng.randrange(1, 7)))


def _old(c):
    import unicodedata
    return unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"


def awkward_texts():
    rng = random.Random(20)
    texts = list(EDGES) + CODE + EMOJI + SPACES + CONTROLS + COMBINING + CONTRACTIONS + SPECIALS + list(SCRIPTS.values())
    texts += ["a" + s + "b" for s in SPACES + CONTROLS] + ["a" + s for s in SPACES] + [s + "b" for s in SPACES]
    texts += [w + c for w in ("he", "IT", "é", "1", "!") for c in CONTRACTIONS]
    texts += [rng.choice(SPACES) + s + rng.choice(SPACES) + t for s in SPECIALS for t in ("x", "", rng.choice(SPECIALS))]
    texts += ["x" + s + "y" for s in SPECIALS]
    texts += [a + b + "x" for a in SPACES[:22] for b in SPACES[:22] if a != b][::2]
    texts += [part for s in SCRIPTS.values() for part in s.split()]
    texts = list(dict.fromkeys(texts))
    while len(texts) < 1750:
        texts.append(_mixed(rng))
    while len(texts) < 2150:
        texts.append(_random_code_points(rng))
    long = [[["a", 5000]], [["ab", 3000]], [[" ", 4000]], [[" ", 3000], ["x", 1]], [["\n", 3000]], [["1", 2500]], [["\u00e9", 2000]], [["\u0301", 1500]],
            [["👨‍👩‍👧‍👦", 300]], [["中", 3000]], [["the quick brown fox ", 500]], [["!?", 2000]], [["\t \n", 1000]], [["<|im_start|>", 300]],
            [["'s", 1500]], [["e\u0301 ", 700]], [["\0", 1000]], [["o\u0323\u0302\u0301", 500]], [[" word ", 500]], [["aAbB1 ", 800]]]
    long += [[[_mixed(rng), rng.randrange(20, 60)], [_mixed(rng), rng.randrange(10, 30)]] for _ in range(60)]
    return texts + [{"repeat": parts} for parts in long]
