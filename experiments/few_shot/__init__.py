"""BMG section 6 and appendix D: few-shot classification of images."""
