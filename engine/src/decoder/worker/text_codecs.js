// TextEncoder, TextDecoder and the parts of Node's Buffer that decoders use. Runs only for scripts that name one of them.
(() => {
  const hide = (name, value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  const toBinary = btoa, fromBinary = atob, code = String.fromCharCode;

  const utf8Bytes = (text) => {
    const out = [];
    for (const char of String(text)) {
      let c = char.codePointAt(0);
      if (c >= 0xd800 && c <= 0xdfff) c = 0xfffd;
      if (c < 0x80) out.push(c);
      else if (c < 0x800) out.push(0xc0 | (c >> 6), 0x80 | (c & 63));
      else if (c < 0x10000) out.push(0xe0 | (c >> 12), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
      else out.push(0xf0 | (c >> 18), 0x80 | ((c >> 12) & 63), 0x80 | ((c >> 6) & 63), 0x80 | (c & 63));
    }
    return out;
  };

  // The Encoding standard's UTF-8 decoder: one U+FFFD per maximal ill-formed part.
  const utf8Text = (bytes, isFatal) => {
    let out = '';
    for (let i = 0; i < bytes.length; ) {
      const b = bytes[i++];
      let need = 0, low = 0x80, high = 0xbf, c = b;
      if (b >= 0x80) {
        if (b >= 0xc2 && b <= 0xdf) { need = 1; c = b & 0x1f; }
        else if (b >= 0xe0 && b <= 0xef) { need = 2; c = b & 0x0f; if (b === 0xe0) low = 0xa0; if (b === 0xed) high = 0x9f; }
        else if (b >= 0xf0 && b <= 0xf4) { need = 3; c = b & 0x07; if (b === 0xf0) low = 0x90; if (b === 0xf4) high = 0x8f; }
        else need = -1;
      }
      for (; need > 0; need--) {
        if (i >= bytes.length || bytes[i] < low || bytes[i] > high) break;
        c = (c << 6) | (bytes[i++] & 63);
        low = 0x80; high = 0xbf;
      }
      if (need !== 0) {
        if (isFatal) throw new TypeError('The encoded data was not valid for encoding utf-8');
        out += '\ufffd';
      } else out += String.fromCodePoint(c);
    }
    return out;
  };

  const view = (input) => {
    if (input === undefined) return new Uint8Array(0);
    if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
    if (input instanceof ArrayBuffer) return new Uint8Array(input);
    throw new TypeError('The "input" argument must be an instance of ArrayBuffer or ArrayBufferView');
  };
  const latin1Text = (bytes, mask) => {
    let out = '';
    for (let i = 0; i < bytes.length; i++) out += code(bytes[i] & mask);
    return out;
  };
  const utf16Text = (bytes) => {
    let out = '';
    for (let i = 0; i + 1 < bytes.length; i += 2) out += code(bytes[i] | (bytes[i + 1] << 8));
    return out;
  };

  hide('TextEncoder', class TextEncoder {
    get encoding() { return 'utf-8'; }
    encode(text = '') { return new Uint8Array(utf8Bytes(text)); }
    encodeInto(text, target) {
      let read = 0, written = 0;
      for (const char of String(text)) {
        const bytes = utf8Bytes(char);
        if (written + bytes.length > target.length) break;
        target.set(bytes, written);
        written += bytes.length;
        read += char.length;
      }
      return { read, written };
    }
  });

  hide('TextDecoder', class TextDecoder {
    #encoding; #isFatal; #keepsBom;
    constructor(label = 'utf-8', options = {}) {
      const name = String(label).trim().toLowerCase();
      if (['utf-8', 'utf8', 'unicode-1-1-utf-8'].includes(name)) this.#encoding = 'utf-8';
      else if (['utf-16le', 'utf-16', 'ucs-2', 'unicode'].includes(name)) this.#encoding = 'utf-16le';
      else if (['latin1', 'iso-8859-1', 'ascii', 'us-ascii', 'windows-1252'].includes(name)) this.#encoding = 'windows-1252';
      else throw new RangeError(`The "${label}" encoding is not supported`);
      this.#isFatal = !!options.fatal;
      this.#keepsBom = !!options.ignoreBOM;
    }
    get encoding() { return this.#encoding; }
    get fatal() { return this.#isFatal; }
    get ignoreBOM() { return this.#keepsBom; }
    decode(input) {
      const bytes = view(input);
      let text;
      if (this.#encoding === 'utf-8') text = utf8Text(bytes, this.#isFatal);
      else if (this.#encoding === 'utf-16le') text = utf16Text(bytes);
      else return latin1Text(bytes, 255);
      return !this.#keepsBom && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
    }
  });

  const hexBytes = (text) => {
    const out = [];
    for (let i = 0; i + 1 < text.length; i += 2) {
      const pair = text.slice(i, i + 2);
      if (!/^[0-9a-fA-F]{2}$/.test(pair)) break;
      out.push(parseInt(pair, 16));
    }
    return out;
  };
  const base64Bytes = (text) => {
    const clean = text.replace(/-/g, '+').replace(/_/g, '/').replace(/=[^]*$/, '').replace(/[^A-Za-z0-9+/]/g, '');
    const binary = fromBinary(clean.length % 4 === 1 ? clean.slice(0, -1) : clean);
    return Array.from(binary, (c) => c.charCodeAt(0));
  };
  const encodeText = (text, encoding = 'utf8') => {
    switch (String(encoding).toLowerCase()) {
      case 'utf8': case 'utf-8': return utf8Bytes(text);
      case 'hex': return hexBytes(text);
      case 'base64': case 'base64url': return base64Bytes(text);
      case 'ascii': case 'latin1': case 'binary': return Array.from({ length: text.length }, (_, i) => text.charCodeAt(i) & 255);
      case 'ucs2': case 'ucs-2': case 'utf16le': case 'utf-16le': {
        const out = [];
        for (let i = 0; i < text.length; i++) out.push(text.charCodeAt(i) & 255, text.charCodeAt(i) >> 8);
        return out;
      }
      default: throw new TypeError(`Unknown encoding: ${encoding}`);
    }
  };

  class Buffer extends Uint8Array {
    static from(value, encodingOrOffset, length) {
      if (typeof value === 'string') return Buffer.#of(encodeText(value, encodingOrOffset));
      if (value instanceof ArrayBuffer) return new Buffer(value, encodingOrOffset, length);
      if (value && value.type === 'Buffer' && Array.isArray(value.data)) return Buffer.#of(value.data);
      if (value && typeof value === 'object' && value.length !== undefined) return Buffer.#of(Array.from(value, (b) => b & 255));
      throw new TypeError('The first argument must be of type string or an instance of Buffer, ArrayBuffer, or Array');
    }
    static #of(bytes) {
      const buffer = new Buffer(bytes.length);
      buffer.set(bytes);
      return buffer;
    }
    static alloc(size, fill = 0, encoding) { return new Buffer(size).fill(fill, 0, size, encoding); }
    static allocUnsafe(size) { return new Buffer(size); }
    static isBuffer(value) { return value instanceof Buffer; }
    static isEncoding(name) { return /^(utf-?8|hex|base64(url)?|ascii|latin1|binary|ucs-?2|utf-?16le)$/i.test(String(name)); }
    static byteLength(value, encoding) { return typeof value === 'string' ? encodeText(value, encoding).length : value.byteLength; }
    static concat(list, total = list.reduce((sum, part) => sum + part.length, 0)) {
      const out = new Buffer(total);
      let at = 0;
      for (const part of list) {
        if (at >= total) break;
        const fits = at + part.length > total ? part.subarray(0, total - at) : part;
        out.set(fits, at);
        at += fits.length;
      }
      return out;
    }
    static compare(a, b) {
      for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
      return Math.sign(a.length - b.length);
    }
    toString(encoding = 'utf8', start = 0, end = this.length) {
      const bytes = this.subarray(start, end);
      switch (String(encoding).toLowerCase()) {
        case 'utf8': case 'utf-8': return utf8Text(bytes, false);
        case 'hex': return Array.prototype.map.call(bytes, (b) => (b < 16 ? '0' : '') + b.toString(16)).join('');
        case 'base64': return toBinary(latin1Text(bytes, 255));
        case 'base64url': return toBinary(latin1Text(bytes, 255)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
        case 'ascii': return latin1Text(bytes, 127);
        case 'latin1': case 'binary': return latin1Text(bytes, 255);
        case 'ucs2': case 'ucs-2': case 'utf16le': case 'utf-16le': return utf16Text(bytes);
        default: throw new TypeError(`Unknown encoding: ${encoding}`);
      }
    }
    toJSON() { return { type: 'Buffer', data: Array.from(this) }; }
    equals(other) { return Buffer.compare(this, other) === 0; }
    compare(other) { return Buffer.compare(this, other); }
    slice(start, end) { return this.subarray(start, end); }
    fill(value, start = 0, end = this.length, encoding) {
      if (typeof value !== 'string') return super.fill(value & 255, start, end);
      const bytes = encodeText(value, encoding);
      for (let i = start; i < end; i++) this[i] = bytes.length ? bytes[(i - start) % bytes.length] : 0;
      return this;
    }
    copy(target, at = 0, start = 0, end = this.length) {
      const part = this.subarray(start, Math.min(end, start + target.length - at));
      target.set(part, at);
      return part.length;
    }
    write(text, at = 0, encoding = 'utf8') {
      const bytes = encodeText(text, encoding).slice(0, this.length - at);
      this.set(bytes, at);
      return bytes.length;
    }
    #check(offset, size) {
      if (!Number.isInteger(offset)) throw new TypeError('The "offset" argument must be an integer');
      if (offset < 0 || offset + size > this.length) throw new RangeError(`The value of "offset" is out of range. Received ${offset}`);
    }
    static {
      const kinds = { UInt8: 1, Int8: 1, UInt16: 2, Int16: 2, UInt32: 4, Int32: 4, Float: 4, Double: 8, BigUInt64: 8, BigInt64: 8 };
      const methods = { UInt8: 'Uint8', UInt16: 'Uint16', UInt32: 'Uint32', Float: 'Float32', Double: 'Float64', BigUInt64: 'BigUint64' };
      const put = (name, value) => Object.defineProperty(Buffer.prototype, name, { value, writable: true, configurable: true, enumerable: false });
      for (const [kind, size] of Object.entries(kinds)) {
        const method = methods[kind] || kind;
        for (const end of size === 1 ? [''] : ['LE', 'BE']) {
          const read = function (offset = 0) {
            this.#check(offset, size);
            return new DataView(this.buffer, this.byteOffset, this.byteLength)['get' + method](offset, end === 'LE');
          };
          const write = function (value, offset = 0) {
            this.#check(offset, size);
            new DataView(this.buffer, this.byteOffset, this.byteLength)['set' + method](offset, value, end === 'LE');
            return offset + size;
          };
          for (const spelling of [kind, kind.replace('UInt', 'Uint')]) {
            put('read' + spelling + end, read);
            put('write' + spelling + end, write);
          }
        }
      }
      const integer = (isSigned, isLittle) => function (offset, size) {
        this.#check(offset, size);
        let value = 0;
        for (let i = 0; i < size; i++) value = value * 256 + this[offset + (isLittle ? size - 1 - i : i)];
        return isSigned && value >= 2 ** (8 * size - 1) ? value - 2 ** (8 * size) : value;
      };
      for (const end of ['LE', 'BE']) {
        put('readUInt' + end, integer(false, end === 'LE'));
        put('readUint' + end, integer(false, end === 'LE'));
        put('readInt' + end, integer(true, end === 'LE'));
      }
    }
  }
  hide('Buffer', Buffer);
})();
