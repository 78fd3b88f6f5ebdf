-- The encoders that the store knows, with the weights and the input they were given.
SELECT model_id, model, architecture, weights_source, weights_sha256, input_transform, precision, dim, licence, versions
FROM models
ORDER BY model_id
