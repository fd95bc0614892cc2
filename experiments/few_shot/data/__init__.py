"""Sets of images for few-shot learning, and tasks drawn from them."""
