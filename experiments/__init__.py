"""Programs that train, evaluate and measure the learners of mathai."""
