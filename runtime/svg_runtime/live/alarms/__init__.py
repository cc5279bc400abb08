"""Alarms of a live run: signals -> trigger -> clip, picture and record -> MQTT, webhook, command.

`AlarmMonitor` is what the live loop calls; everything that writes or sends runs in threads of its own.
"""
