"""peftbench: benchmarks of parameter-efficient fine-tuning that people can believe."""

__version__ = "0.2.0"
