"""Tables, charts and pages, as data and rendered; knows no experiment."""
