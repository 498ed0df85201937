// Plads P4, parking bay. Packed bits. OS2iot: gets the whole event and the device's record.
function decode(payload, metadata) {
  const bytes = Array.from(atob(payload.data), (c) => c.charCodeAt(0));
  const word = (i) => ((bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3]) >>> 0;
  return {
    bay: metadata.name,
    occupied: (bytes[0] & 0x80) !== 0,
    battery_percent: bytes[0] & 0x7f,
    temperature_c: bytes[1] > 127 ? bytes[1] - 256 : bytes[1],
    heard_by: payload.rxInfo.length,
    observed_at: payload.time,
    node: word(2),
    seq: word(6),
  };
}
