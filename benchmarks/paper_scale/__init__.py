"""Trainings at the scale of the papers: the released MNIST experiments, and all of MNIST."""
