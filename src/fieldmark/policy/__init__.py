"""Policy: prompts, verdicts, rewards, rollout groups, GRPO.

What a multimodal LLM is asked about two pictures, and what its answer is worth.
"""
