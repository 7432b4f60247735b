from . import chapter as chapter, graders as graders, interactive as interactive
