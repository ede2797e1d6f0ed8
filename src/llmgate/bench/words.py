"""The words that prompts are made of.

The 512 most frequent lower-case words of GSM8K's questions, mt_bench's and this project's pages that are one token each
in the tokenizer of SmolLM2 (`llmgate.tokens`, "embedded"), as in any byte-pair vocabulary trained on English.
"""

_TEXT = """
able about above add added adult after again age ages all already also among amount an and animals another answer
answered answers any apple apples are around articles as asks at ate average away back bag bags balls bank bars be
beans because bed beds been bees before being between big bill bird birds blue book books both bought box boxes boys
bread brother building bus but buttons buy by calls came can capacity car cards cars cases cats chairs change charge
charged check child children chips city class classes client clients coins collect colors combined come comes company
complete contains corn cost could count counts cup current cut daily day days default degrees delivery did dig
distance divide divided do does dog dogs double down drive driving during each earned eat egg eight electric else
empty end endpoint engine enough equal error every extra family far farm fast father fee feed feet female figure file
fill final find finish first fish five floor flower flowers food foot for found four fourth friend friends from fruit
full game games gas gateway get gets give given glass go going gold good got grams green group groups had half has
have having he height her high him his hold holes home hot hour hours house how ice if in inch inches initial into is
it its jar job just key kg kids know large last least leave leaves left length less letter letters like likes line
load local long lost made make making many math may meaning means milk mini minutes model mom money month months more
most mother movie much multiply must name need needed needs net new next night no none normal not nothing now number
of off old older on once one only or orange order ordered orders original other ounces out over own pack package
packages packs page pages paid pair pairs paper park part party pass pay people per person phone pick piece pieces
place plant plants play players playing plus points pool port pots pound previous price process profit prompt put
raise raised ran rate ratio reach read receive received red regular request requests required rest return ride right
rolls room rows run running runs sale same save saved saving school score scores second seconds see sell selling sent
service set sets share she shirts shop short should show side since six size small so sold some son speed square start
started starting starts station status sticks still store stream student students such sum table take taken taking
tall tank task teacher teachers team ten test than that the their them then there these they third this those three
through time times to together tokens top total train travel tree trees trip try two type under until up use used uses
using value video walk walks want was watch water way we week weekly weight went were what when where which while
white who whole wife will windows with within without women words work worked working works worth would write writes
written yards year years yellow you your
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
