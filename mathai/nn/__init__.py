"""Neural-network formulas."""
