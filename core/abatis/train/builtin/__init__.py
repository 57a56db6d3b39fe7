"""What a run uses where no plugin says otherwise; ``abatis.config.built_in`` is the table of it."""
