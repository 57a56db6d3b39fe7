"""The network is examined as a stranger: a copy in a new process that never saw the clean images.

An honest network gives an adversarial image the same answer wherever, whenever and in whatever
company it is asked. What remembers earlier questions, looks at the rest of the batch, or asks
whether gradients are recorded, does not.
"""
