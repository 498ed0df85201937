// Muld M3, soil moisture. Channel and type, then the value, little endian. The Things Network v2.
function Decoder(bytes, port) {
  var decoded = { port: port };
  var i = 0;
  while (i < bytes.length) {
    var channel = bytes[i++];
    var type = bytes[i++];
    if (channel === 0x01 && type === 0x75) {
      decoded.battery_percent = bytes[i];
      i += 1;
    } else if (channel === 0x03 && type === 0x67) {
      decoded.temperature_c = readInt16(bytes.slice(i, i + 2)) / 10;
      i += 2;
    } else if (channel === 0x04 && type === 0x68) {
      decoded.moisture_percent = bytes[i] / 2;
      i += 1;
    } else if (channel === 0x7f && type === 0xf0) {
      decoded.node = readUInt32(bytes.slice(i, i + 4));
      i += 4;
    } else if (channel === 0x7f && type === 0xf1) {
      decoded.seq = readUInt32(bytes.slice(i, i + 4));
      i += 4;
    } else {
      throw "unknown channel " + channel + " with type " + type;
    }
  }
  return decoded;
}

function readInt16(bytes) {
  var value = (bytes[1] << 8) + bytes[0];
  return value > 0x7fff ? value - 0x10000 : value;
}

function readUInt32(bytes) {
  return ((bytes[3] << 24) + (bytes[2] << 16) + (bytes[1] << 8) + bytes[0]) >>> 0;
}
