"""Vision-language critics: questions, answers, and gradients or choices made from them."""
