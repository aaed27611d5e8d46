"""The phrases of the paper: the unlearn label and its paraphrases."""

# The unlearn label of arXiv 2510.16629 and the paraphrases printed in its appendix F.
LABEL = "Sorry, I can not assist you"
PARAPHRASES = (
    "I can't help with that",
    "I'm unable to assist",
    "I can't provide help",
    "Sorry, I'm not able to do that",
    "I can't assist",
    "I'm afraid I can't",
    "I'm not able to comply",
    "That's not something I can assist",
    "I can't support",
    "Unfortunately, I can't help",
    "I'm unable to provide assistance",
    "Unfortunately, I can not assist",
    "I must decline this",
    "I can't fulfill that",
    "I'm sorry I'm unable to do that for you",
    "I can't proceed",
    "Regretfully, I can not",
    "I'm not permitted",
    "I need to decline",
)
