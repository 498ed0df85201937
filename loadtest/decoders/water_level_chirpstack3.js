// Pegel L1, water level. Fixed fields, big endian. ChirpStack v3.
function Decode(fPort, bytes, variables) {
  if (fPort !== 2) throw new Error("unexpected fPort " + fPort);
  if (bytes.length !== 14) throw new Error("expected 14 bytes, got " + bytes.length);
  var status = (bytes[0] << 8) | bytes[1];
  var temperature = (bytes[4] << 8) | bytes[5];
  if (temperature & 0x8000) temperature -= 0x10000;
  return {
    alarm: (status & 0x8000) !== 0,
    battery_v: (status & 0x3fff) / 1000,
    level_m: ((bytes[2] << 8) | bytes[3]) / 1000,
    temperature_c: temperature / 100,
    node: ((bytes[6] << 24) | (bytes[7] << 16) | (bytes[8] << 8) | bytes[9]) >>> 0,
    seq: ((bytes[10] << 24) | (bytes[11] << 16) | (bytes[12] << 8) | bytes[13]) >>> 0
  };
}
