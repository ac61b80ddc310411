"""The colours of every figure: told apart by everybody and on paper."""

# Okabe and Ito, Color Universal Design (2008): blue, vermilion, green, purple, sky blue, orange, black; without the
# yellow, which white paper hides, and with a grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#777777")
