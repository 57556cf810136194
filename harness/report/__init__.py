"""Tables, charts and pages, as data and as what people read; it knows no experiment."""
