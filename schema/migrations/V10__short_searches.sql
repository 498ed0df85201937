-- A text of one or two characters has no trigram: without an index of its own, looking for a rare one reads every device.

-- Every character of a name, and every two that stand together, in lower case; some more than once, and what is left of the last pair.
CREATE FUNCTION name_grams(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
    SELECT string_to_array(lower(name), NULL)
        || string_to_array(regexp_replace(lower(name), '(..)', E'\\1\x01', 'g'), E'\x01')
        || string_to_array(regexp_replace(substr(lower(name), 2), '(..)', E'\\1\x01', 'g'), E'\x01')
$$;
CREATE INDEX iot_device_name_grams_idx ON iot_device USING gin (name_grams(name));
