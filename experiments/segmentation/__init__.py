"""A class for every pixel: folders of images and masks, networks, pictures."""
