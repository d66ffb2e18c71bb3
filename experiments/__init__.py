"""Training runs that use mecq_jax: data, augmentation, run folders and plots."""
