"""Multi-task transfer learning on photos: several questions about one image, trained once, served proven."""
