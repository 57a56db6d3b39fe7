"""What a run uses where no plugin says otherwise: PGD, cross-entropy, weight averaging."""
