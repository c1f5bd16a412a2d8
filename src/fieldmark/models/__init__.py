"""Models: one adapter over every multimodal LLM, token sampling, poolers and the encoder that is deployed."""
