"""One model on several devices: each is a rank, with a process and a part of the model of its own."""
