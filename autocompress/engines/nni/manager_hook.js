// Loaded into NNI's manager before its own code (NODE_OPTIONS=--require), because NNI has no setting for either:
// its server would listen on every interface without authentication, and a tuner has only 10 seconds to connect.
'use strict';
const net = require('net');

const HOST = '127.0.0.1';
const TUNER_PATIENCE_MS = 120000;

// The manager's children (trials) are none of our business.
delete process.env.NODE_OPTIONS;

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
    const options = args[0];
    if (options !== null && typeof options === 'object') {
        if (options.path === undefined && options.fd === undefined && !options._handle) {
            args[0] = Object.assign({}, options, { host: HOST });
        }
    } else if (typeof args[1] === 'string') {
        args[1] = HOST;
    } else if (typeof options !== 'string' || /^\d+$/.test(options)) {
        args.splice(1, 0, HOST);
    }
    return listen.apply(this, args);
};

const setTimer = global.setTimeout;
global.setTimeout = function (callback, delay, ...rest) {
    const isTunerTimer = delay === 10000 && String(callback).includes('Tuner did not connect');
    return setTimer(callback, isTunerTimer ? TUNER_PATIENCE_MS : delay, ...rest);
};
global.setTimeout[require('util').promisify.custom] = setTimer[require('util').promisify.custom];
