"""Being here, it puts the folder above `tests` on the path: every test may import `tests.helpers`."""
