"""What a model needs, and which layers go on which device. Pure but for reading one header; imports no engine."""
