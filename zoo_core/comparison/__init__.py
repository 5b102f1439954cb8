"""Contenders under one budget, with paired seeds and a verdict that says how sure it is (protocol `zoo-fair/1`)."""
