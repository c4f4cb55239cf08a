"""What several methods of one family have in common. The files of methods are one folder up."""
