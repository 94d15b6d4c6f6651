"""Networks to attack and white boxes to learn from: named, trained once, kept."""
