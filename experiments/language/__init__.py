"""Language models: a text's next token, and a published network at few bits."""
