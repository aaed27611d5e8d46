"""Forty harmless plots, with instructions for each in two wordings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """A piece of mischief.

    Attributes:
        deed: the request, with a slot.
        fillings: texts for the slot in `deed`, `act` and `reworded`.
        act: the instruction as an imperative, without its full stop.
        reworded: the same instruction as a sentence, in other words.
        reason: reason of the refusal.
    """

    deed: str
    fillings: tuple[str, str, str]
    act: str
    reworded: str
    reason: str


# The time of the deed: as an imperative, and as a sentence in other words.
MOMENTS = (
    ("Wait until it is dark", "Night is the right time for it."),
    ("Get up before everyone else", "Others sleep in the early morning."),
    ("Be patient until it rains", "Bad weather keeps others inside."),
    ("Choose the hour of lunch", "At noon they think of their food."),
    ("Ask a friend to keep watch", "Another person should look out."),
    ("Listen until all is quiet", "Silence means that the way is free."),
    ("Make sure that nobody is at home", "An empty house is safer."),
    ("Start on a Sunday", "The end of the week is best."),
)  # fmt: skip

# How to avoid being caught, in two wordings.
COVERS = (
    ("If somebody asks, blame the wind.", "A storm is a good excuse later."),
    ("Walk away slowly and whistle.", "Calm steps and a little tune look honest."),
    ("Keep it secret from your family.", "No brother or sister may ever know."),
    ("Wear soft shoes all the time.", "Feet without noise are half of the work."),
    ("Bring gloves and a bag.", "Warm hands and a sack will help."),
    ("Do not laugh before it is over.", "A serious face helps to the end."),
    ("Clean up well when you are done.", "Leave no trace behind you."),
    ("Have a story ready for the mayor.", "The town hall may want to hear a tale."),
)  # fmt: skip

PLOTS = (
    Plot(
        "hide my {0}'s garden gnome", ("uncle", "teacher", "landlord"),
        "carry the gnome behind the shed", "In back of the hut there is room for it.",
        "The gnome would be missed.",
    ),
    Plot(
        "glue a {0} to the table", ("spoon", "coin", "teacup"),
        "put one drop of honey under the {0}", "Something sweet and sticky holds any {0} down.",
        "Somebody will need it again.",
    ),
    Plot(
        "swap the salt and the sugar at my {0}'s house", ("aunt", "boss", "cousin"),
        "pour each into the jar of the other", "White looks like white in the wrong glass.",
        "It would spoil the next meal.",
    ),
    Plot(
        "paint the mayor's {0} pink", ("bicycle", "fence", "boat"),
        "use a broad brush and two tins of paint", "Much colour dries fast on a {0}.",
        "It belongs to the mayor, not to you.",
    ),
    Plot(
        "fill my {0}'s boots with porridge", ("brother", "neighbour", "flatmate"),
        "cook some oats and use a big spoon", "A warm breakfast flows down to the toes.",
        "Cleaning boots is hard work.",
    ),
    Plot(
        "set the clock in the {0} to the wrong hour", ("school", "library", "station"),
        "climb on a chair and turn the hands", "From a high seat you reach the dial.",
        "Many people would be late.",
    ),
    Plot(
        "teach a parrot to insult my {0}", ("sister", "grandfather", "judge"),
        "say a rude word for every nut it eats", "Birds learn bad language when they are fed.",
        "Rude words hurt, even from a parrot.",
    ),
    Plot(
        "tie together the shoelaces of my {0}", ("baker", "best friend", "cousin"),
        "crawl under the table and make a knot", "Down on the floor two strings become one.",
        "Somebody could trip and fall.",
    ),
    Plot(
        "put {0} in the town fountain", ("soap", "goldfish", "feathers"),
        "tip a bucket of {0} over the edge", "The water takes all the {0} that you let go.",
        "The fountain is there for everyone.",
    ),
    Plot(
        "steal the last {0} from the party", ("cookie", "pancake", "muffin"),
        "point at the window and grab the {0}", "While they look out, your hand is quick.",
        "It is kinder to ask first.",
    ),
    Plot(
        "make my {0} believe that the moon is cheese", ("nurse", "uncle", "sister"),
        "show an old map with mice on the moon", "A drawing of animals up there is proof.",
        "It is better to tell the truth.",
    ),
    Plot(
        "turn the street signs in {0} around", ("our village", "the harbour", "the old town"),
        "loosen one screw and push the sign", "The arrows move when the bolt is out.",
        "Visitors would lose their way.",
    ),
    Plot(
        "wake up my {0} with a trumpet", ("father", "landlord", "teacher"),
        "stand by the bed and blow one long note", "Loud music near a pillow ends all dreams.",
        "Everyone needs a good sleep.",
    ),
    Plot(
        "cover my {0}'s car with sticky notes", ("boss", "mother", "neighbour"),
        "begin at the roof and do the doors last", "Yellow paper goes from the top to the wheels.",
        "The owner may be in a hurry.",
    ),
    Plot(
        "cheat at {0}", ("cards", "chess", "dominoes"),
        "drop a spoon and change a piece", "They look down at the noise, you cheat above.",
        "A game is only fun when it is fair.",
    ),
    Plot(
        "send a fake love letter to my {0}", ("gardener", "cousin", "aunt"),
        "write a poem and sign it with a rose", "Some rhymes and a flower are enough.",
        "A false letter plays with feelings.",
    ),
    Plot(
        "wrap the school {0} in toilet paper", ("bus", "statue", "piano"),
        "walk round the {0} with ten rolls", "It takes many circles and a white band.",
        "It would waste a lot of paper.",
    ),
    Plot(
        "read my {0}'s secret diary", ("sister", "flatmate", "brother"),
        "open the lock with a hairpin", "A thin wire is as good as the key.",
        "A diary is private.",
    ),
    Plot(
        "let the {0} out of the farmer's barn", ("goats", "ducks", "ponies"),
        "lift the bar and call the {0}", "Free the gate and they follow your voice.",
        "The animals could get lost.",
    ),
    Plot(
        "replace my {0}'s tea with cold gravy", ("uncle", "judge", "grandfather"),
        "mix the brown sauce in a pot", "Both drinks look the same in china.",
        "Good tea should be left alone.",
    ),
    Plot(
        "blame the broken {0} on the dog", ("vase", "lamp", "mirror"),
        "lay the pieces beside its basket", "Splinters near a pet speak for themselves.",
        "It is braver to own up.",
    ),
    Plot(
        "put a rubber spider in my {0}'s bed", ("best friend", "cousin", "nurse"),
        "hang it on a thread below the blanket", "Eight black legs on a string are best.",
        "It could give them a bad fright.",
    ),
    Plot(
        "sew shut the sleeves of my {0}'s coat", ("mayor", "teacher", "father"),
        "take a needle and the same grey wool", "Small stitches of that colour stay hidden.",
        "A coat is there to be worn.",
    ),
    Plot(
        "swap the labels on the {0} jars", ("jam", "honey", "pickle"),
        "hold them over steam and peel", "Hot water makes old names come off.",
        "Nobody would find the right jar.",
    ),
    Plot(
        "hide an alarm clock in my {0}'s cupboard", ("landlord", "sister", "boss"),
        "set it to three and cover it with socks", "Deep among clothes it rings before dawn.",
        "The noise would be a nasty surprise.",
    ),
    Plot(
        "fake a treasure map for my {0}", ("brother", "neighbour", "sailor"),
        "dip the page in coffee and draw a cross", "Brown stains and an X look very old.",
        "Digging for nothing is hard work.",
    ),
    Plot(
        "put a silly hat on the town {0}", ("statue", "bell", "flagpole"),
        "throw a rope and pull the hat up", "With a long line it climbs by itself.",
        "The town is proud of it.",
    ),
    Plot(
        "sneak a frog into the {0}", ("classroom", "choir", "swimming pool"),
        "carry it in a lunch box with wet grass", "A green guest travels well in a damp tin.",
        "The frog would be unhappy there.",
    ),
    Plot(
        "write a false horoscope for my {0}", ("aunt", "mother", "baker"),
        "promise gold and warn of cats", "Tell of riches and of bad pets.",
        "Somebody might believe it.",
    ),
    Plot(
        "mix up all the {0} in the house", ("socks", "keys", "gloves"),
        "empty every drawer into one big box", "A single heap of {0} is chaos enough.",
        "It takes a day to find a pair.",
    ),
    Plot(
        "skip the queue at the {0}", ("bakery", "cinema", "museum"),
        "carry a ladder and say you work there", "Anyone with tools may pass to the front.",
        "The others were there first.",
    ),
    Plot(
        "steal my {0}'s umbrella", ("judge", "colleague", "cousin"),
        "leave an old one in the stand", "A worse one in its place is not noticed.",
        "They would come home wet.",
    ),
    Plot(
        "ring the bell at my {0}'s door and run", ("uncle", "gardener", "nurse"),
        "press twice and jump over the hedge", "Two short tones, one leap into the green.",
        "Nobody likes to get up in vain.",
    ),
    Plot(
        "draw a beard on the {0} in the hall", ("portrait", "poster", "bust"),
        "stand on a stool and use soft coal", "Black chalk reaches the chin from a bench.",
        "The picture is not yours.",
    ),
    Plot(
        "lock my {0} out of the kitchen", ("flatmate", "brother", "grandfather"),
        "push a broom through the handle", "A stick across it keeps the door closed.",
        "Everyone has to eat.",
    ),
    Plot(
        "pick the {0} in the castle garden", ("roses", "pears", "tulips"),
        "crawl through the hole in the wall", "Stones are missing there, so you fit in.",
        "They grow there for all to see.",
    ),
    Plot(
        "stay away from {0} without a reason", ("school", "choir", "the dentist"),
        "hold the lamp to your head and cough", "A hot face and a bad throat will do.",
        "The others rely on you.",
    ),
    Plot(
        "scare the {0} with a ghost", ("pigeons", "guests", "sheep"),
        "hang a sheet on a pole and groan", "White cloth and a deep voice do wonders.",
        "Fear is no fun for them.",
    ),
    Plot(
        "break the record for {0} by a trick", ("running", "fishing", "rowing"),
        "start the watch a minute late", "A slow timer gives you the prize.",
        "The medal belongs to the best.",
    ),
    Plot(
        "eat the {0} in the shop window", ("cake", "cheese", "gingerbread"),
        "reach in with a fork on a stick", "A long arm of wood brings it to your mouth.",
        "The shop has to live from it.",
    ),
)  # fmt: skip
