"""What an audit looks at. Plain functions: they know nothing of workflows, and any test can call them."""
