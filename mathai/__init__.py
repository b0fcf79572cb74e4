"""The mathematics of modern AI as pure JAX functions, and all that composes from them."""
