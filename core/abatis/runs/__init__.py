"""One run from start to end: data, network, plan, training, evaluation, run folder."""
