"""What a run trains: a network, its data, its loss and its measure."""
