"""Training in torch: the layers, their parallel forms, and the trainer."""
