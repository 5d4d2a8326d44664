"""Quire's backend for AWS Neuron: XLA programs of static shapes, held to what Neuron's compiler takes."""
