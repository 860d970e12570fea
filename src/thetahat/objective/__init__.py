"""log Pr and Σ; knows no model class, file or rank."""
