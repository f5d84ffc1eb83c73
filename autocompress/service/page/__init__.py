"""The page of the service: what people see of it in a browser, rendered here with little script."""
