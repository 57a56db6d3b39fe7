"""Attacks of other libraries and of users, beside the ladder and never in place of it.

They get a copy of the network. What they return is judged like every adversarial image: it counts
only inside the ball and [0, 1], and where the network itself misclassifies it.
"""
