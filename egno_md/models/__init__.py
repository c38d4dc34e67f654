"""Networks in pure torch: tensors in, tensors out."""
