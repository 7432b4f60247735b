from . import (
    browser as browser,
    chapter as chapter,
    drawings as drawings,
    graders as graders,
    interactive as interactive,
    results as results,
)
