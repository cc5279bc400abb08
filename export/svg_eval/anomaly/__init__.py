"""How well a model's signals find labelled anomalies: labels and clips -> scores -> areas -> table, JSON and page."""
