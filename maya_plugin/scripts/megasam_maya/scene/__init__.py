"""What Apply does in the Maya scene: camera, image planes, points, and the group that holds them."""
