"""Vision-language critics: questions, answers, and what is made of them."""
