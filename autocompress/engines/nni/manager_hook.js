// Loaded into NNI's manager before its own code (NODE_OPTIONS=--require), because NNI has no setting for these:
// its server listens on every interface without authentication and tells everyone its secret path in its 404 page,
// a tuner has only 10 seconds to connect, nobody hears how a trial was killed, and parameters go to whichever trial
// asks first.
'use strict';
const http = require('http');
const net = require('net');

const HOST = '127.0.0.1';
const TUNER_PATIENCE_MS = 120000;

// NNI drops the signal that killed a trial; it is written beside what the trial printed.
const children = require('child_process');
const fs = require('fs');
const path = require('path');
const spawn = children.spawn;
children.spawn = function (...args) {
    const child = spawn.apply(this, args);
    const env = (args[args.length - 1] || {}).env || {};
    if (env.NNI_TRIAL_JOB_ID && env.NNI_OUTPUT_DIR) {
        child.on('exit', (code, signal) => {
            if (signal) {
                fs.writeFileSync(path.join(env.NNI_OUTPUT_DIR, 'trial.signal'), signal);
            }
        });
    }
    return child;
};

// NNI gives the oldest parameters to the trial that asks first, and tells the end of a trial with those it was made for.
// Here a trial is given its own; none asks before it has been started, which takes it longer than this.
function bindParameters(service) {
    const submit = service.submitTrialJob;
    service.submitTrialJob = async function (form) {
        const trial = await submit.call(this, form);
        const waiting = this.parameters.indexOf(form.hyperParameters.value);
        if (waiting >= 0) {
            this.parameters.splice(waiting, 1);
            this.allocatedParameters.set(trial.id, form.hyperParameters.value);
        }
        return trial;
    };
}
const Module = require('module');
const load = Module._load;
Module._load = function (...args) {
    const loaded = load.apply(this, args);
    if (loaded && loaded.V3asV1 && !loaded.V3asV1.ownParameters) {
        loaded.V3asV1.ownParameters = true;
        bindParameters(loaded.V3asV1.prototype);
    }
    return loaded;
};

// The manager's children (trials) are none of our business.
delete process.env.NODE_OPTIONS;

function argument(name) {
    const index = process.argv.indexOf(name);
    return index < 0 ? undefined : process.argv[index + 1];
}
const port = Number(argument('--port'));
const prefix = argument('--url-prefix');

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

function outside(server, url) {
    const address = server.address();
    if (!prefix || !address || address.port !== port) {
        return false;
    }
    return url !== `/${prefix}` && !url.startsWith(`/${prefix}/`) && !url.startsWith(`/${prefix}?`);
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, other, ...rest) {
    if (event === 'request') {
        other.setHeader('Referrer-Policy', 'no-referrer');
        if (outside(this, request.url)) {
            other.writeHead(404, { 'Content-Type': 'text/plain', 'Connection': 'close' });
            other.end('Not Found');
            return true;
        }
    }
    if (event === 'upgrade' && outside(this, request.url)) {
        other.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n');
        return true;
    }
    return emit.call(this, event, request, other, ...rest);
};

// Other machines reach this server through their SSH connection, by the same port on their own 127.0.0.1, so that it
// need not be open to anybody. And NNI installs itself from the package index at every start, even where it is.
if (process.env.AUTOCOMPRESS_OVER_SSH) {
    const { Client } = require(require.resolve('ssh2', { paths: [process.cwd()] }));
    const connect = Client.prototype.connect;
    Client.prototype.connect = function (config) {
        this.on('ready', () => this.forwardIn(HOST, port, () => {}));
        this.on('tcp connection', (_, accept) => {
            const stream = accept();
            const socket = net.connect(port, HOST);
            socket.on('error', () => stream.destroy());
            stream.on('error', () => socket.destroy());
            stream.pipe(socket).pipe(stream);
        });
        return connect.call(this, config);
    };
    const exec = Client.prototype.exec;
    Client.prototype.exec = function (command, ...rest) {
        const install = / -m pip install nni --upgrade$/;
        if (install.test(command)) {
            const python = command.replace(install, '');
            command = `${python} -c "import nni" || ${python} -m pip install nni==3.0`;
        }
        return exec.call(this, command, ...rest);
    };
}

const setTimer = global.setTimeout;
global.setTimeout = function (callback, delay, ...rest) {
    const isTunerTimer = delay === 10000 && String(callback).includes('Tuner did not connect');
    return setTimer(callback, isTunerTimer ? TUNER_PATIENCE_MS : delay, ...rest);
};
const promisified = require('util').promisify.custom;
global.setTimeout[promisified] = setTimer[promisified];
