"""Candidates in, reordered candidates out: prompts, the listwise scorer, losses, fine-tuning and fusion."""
