"""How the bundled MLLM was made: `make tiny-model`. Recipe and measurements: docs/tiny-model.md."""
